"""Read the signature of a handler or a dependency, once, when it is declared.

A parameter is a command, a progress, the payload, a dependency or the value of the lifespan; its
annotation says which. What cannot be called is refused here, and not when a request comes.
"""

import builtins
import dis
import functools
import inspect
import types
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args, get_origin

from sagastream._codec.converters import Converter
from sagastream._codec.typed_payloads import UnsupportedType, converter_of
from sagastream.dependencies import Depends, Lifespan
from sagastream.effects import Atomic, Effect
from sagastream.errors import RegistrationError
from sagastream.message import Command, PlainProgress, Progress

Kind = Literal["command", "progress", "payload", "typed command", "dependency", "lifespan"]

_NAMED: Mapping[str, Any] = {
    each.__name__: each for each in (Command, Progress, PlainProgress, Atomic)
}
_ABSENT = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_UNTYPED = (_ABSENT, Any, object)
_TWO = "a handler takes two arguments, the command or its payload and `progress`, and dependencies"


@dataclass(frozen=True, slots=True)
class Argument:
    """What one parameter of a function gets.

    Attributes:
        name: The parameter's.
        kind: What it gets.
        is_keyword: Whether it is given by name.
        converter: Makes the payload; None if it is the plain dict.
        depends: The function that makes a dependency.
    """

    name: str
    kind: Kind
    is_keyword: bool = False
    converter: Converter | None = None
    depends: Callable[..., Any] | None = None

    @property
    def path(self) -> str:
        """What an error calls the payload."""
        return "payload" if self.kind == "typed command" else self.name.strip("_") or "payload"


@dataclass(frozen=True, slots=True)
class Signature:
    """How to call a function.

    Attributes:
        arguments: What its parameters get, in their order.
        result: Converts what it returns; None for a dict, or if it does not say.
    """

    arguments: tuple[Argument, ...]
    result: Converter | None = field(default=None)

    @property
    def is_classic(self) -> bool:
        """Whether it can be called with the command and the progress, as they are."""
        kinds = [(each.kind, each.is_keyword) for each in self.arguments]
        return kinds == [("command", False), ("progress", False)]

    @property
    def dependencies(self) -> tuple[Argument, ...]:
        """The parameters that need more than the command."""
        return tuple(each for each in self.arguments if each.kind in {"dependency", "lifespan"})


class Reader:
    """Reads the signatures of one kind of functions.

    Args:
        what: Names the function in messages.
        function: The function.
        names: Names of the place where it is declared, such as classes in a function.
        is_dependency: Whether it is a dependency, whose parameters all need an annotation.
    """

    def __init__(
        self,
        what: str,
        function: Callable[..., Any],
        names: Mapping[str, Any] | None = None,
        *,
        is_dependency: bool = False,
    ) -> None:
        self._what = what
        self._function = function
        self._names = names or {}
        self._is_dependency = is_dependency
        self._inner = _inner(function)

    def read(self, effect: Effect | None = None) -> Signature:
        """Read the signature.

        Args:
            effect: The policy of a handler; None for a dependency.

        Raises:
            RegistrationError: It cannot be called, or its result cannot be a reply.
        """
        try:
            signature = inspect.signature(self._function)
        except (ValueError, TypeError):
            # A builtin without a signature.
            return Signature((Argument("command", "command"), Argument("progress", "progress")))
        if not self._is_dependency:
            self._check_method()
        arguments: list[Argument] = []
        has_gap = False
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                continue
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                arguments += self._rest(arguments)
            elif argument := self._argument(parameter, arguments):
                self._check_once(argument, arguments)
                arguments.append(replace(argument, is_keyword=True) if has_gap else argument)
            else:
                has_gap = True  # it keeps its default, so what follows is given by name
        if effect is None:
            return Signature(tuple(arguments))
        if not any(each.kind == "progress" for each in arguments):
            self._check_progress_call()
        return Signature(tuple(arguments), self._result(signature.return_annotation, effect))

    def refuse(self, reason: str) -> RegistrationError:
        """The error that names the function."""
        return RegistrationError(f"{self._what}: {reason}")

    # -- parameters --------------------------------------------------------------------------

    def _argument(self, parameter: inspect.Parameter, before: list[Argument]) -> Argument | None:
        name, is_keyword = parameter.name, parameter.kind not in _POSITIONAL
        if isinstance(parameter.default, Depends | Lifespan):
            raise self.refuse(
                f"the parameter {name} has a marker as its default: write "
                f"`{name}: Annotated[…, {type(parameter.default).__name__}(…)]`"
            )
        annotation = self._resolved(name, parameter.annotation)
        marked = self._marked(name, annotation, is_keyword=is_keyword)
        if marked:
            return marked
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        known = self._known(name, annotation, is_keyword=is_keyword)
        if known:
            return known
        if parameter.default is not _ABSENT and before and "progress" not in name:
            return None
        if self._is_dependency:
            raise self.refuse(
                f"the parameter {name} of a dependency must be a Command, "
                "Annotated[…, Depends(…)] or Annotated[…, Lifespan]"
            )
        if annotation in _UNTYPED or get_origin(annotation) is Callable:
            return self._untyped(name, before, is_keyword=is_keyword)
        return Argument(
            name, "payload", is_keyword=is_keyword, converter=self._payload(name, annotation)
        )

    def _rest(self, before: list[Argument]) -> list[Argument]:
        """What `*args` of a wrapper gets: what is missing of command and progress."""
        missing = [Argument("command", "command"), Argument("progress", "progress")]
        return [] if self._is_dependency else missing[len(before) :]

    def _marked(self, name: str, annotation: Any, *, is_keyword: bool) -> Argument | None:
        if get_origin(annotation) is not Annotated:
            return None
        for marker in get_args(annotation)[1:]:
            if marker is Depends or (isinstance(marker, Depends) and not callable(marker.function)):
                raise self.refuse(f"the parameter {name} needs a function: Depends(function)")
            if isinstance(marker, Depends):
                return Argument(name, "dependency", is_keyword, depends=marker.function)
            if marker is Lifespan or isinstance(marker, Lifespan):
                return Argument(name, "lifespan", is_keyword)
        return None

    def _known(self, name: str, annotation: Any, *, is_keyword: bool) -> Argument | None:
        if annotation is Command:
            return Argument(name, "command", is_keyword)
        if get_origin(annotation) is Command:
            (inner,) = get_args(annotation)
            converter = self._payload(name, inner)
            kind: Kind = "typed command" if converter else "command"
            return Argument(name, kind, is_keyword, converter)
        if annotation in (Progress, PlainProgress) and not self._is_dependency:
            if annotation is PlainProgress and inspect.iscoroutinefunction(self._inner):
                raise self.refuse(
                    f"the parameter {name} of an async handler must be Progress, which is awaited"
                )
            return Argument(name, "progress", is_keyword)
        return None

    def _untyped(self, name: str, before: list[Argument], *, is_keyword: bool) -> Argument:
        kinds = {each.kind for each in before}
        if not is_keyword:
            if not before:
                return Argument(name, "command")
            if "progress" not in kinds:
                return Argument(name, "progress")
        raise self.refuse(f"{_TWO}: give the parameter {name} an annotation or a default")

    def _payload(self, name: str, annotation: Any) -> Converter | None:
        """The converter of a payload; None if the handler gets the dict as it is."""
        if annotation is Any or _is_any_object(annotation):
            return None
        try:
            converter = converter_of(annotation)
        except UnsupportedType as error:
            raise self.refuse(f"the parameter {name} cannot be a payload: {error}") from error
        if not converter.is_object:
            raise self.refuse(
                f"the parameter {name} cannot be a payload, which is a JSON object: use a dict, a "
                "dataclass, a TypedDict, a pydantic model or a msgspec Struct; or give it a default"
            )
        return converter

    def _check_once(self, argument: Argument, before: list[Argument]) -> None:
        for each in before:
            if each.kind == argument.kind and each.kind in {"payload", "progress", "command"}:
                hint = ": put them in one class" if each.kind == "payload" else ""
                raise self.refuse(
                    f"{_TWO}; {each.name} and {argument.name} are both the {each.kind}{hint}"
                )

    # -- results -----------------------------------------------------------------------------

    def _result(self, annotation: Any, effect: Effect) -> Converter | None:
        annotation = self._resolved("return", annotation)
        if get_origin(annotation) in {Awaitable, Coroutine, AsyncGenerator}:
            annotation = get_args(annotation)[-1]
        if annotation in _UNTYPED or annotation in (typing.Never, typing.NoReturn):
            return None
        if (annotation is Atomic) != (effect == "atomic"):
            if effect == "atomic":
                raise self.refuse(f"an atomic handler returns Atomic, not {_text(annotation)}")
            raise self.refuse('only a handler with effect="atomic" returns Atomic')
        if annotation in (None, type(None), Atomic) or _is_any_object(annotation):
            return None
        try:
            converter = converter_of(annotation)
        except UnsupportedType as error:
            raise self.refuse(f"its result cannot be a reply: {error}") from error
        if not converter.is_object:
            raise self.refuse(
                f"its result {_text(annotation)} cannot be a reply, which is a JSON object: return a "
                "dict, a dataclass, a TypedDict, a pydantic model, a msgspec Struct, or None"
            )
        return converter

    # -- the function itself -----------------------------------------------------------------

    def _resolved(self, name: str, annotation: Any) -> Any:
        """An annotation without names that are text."""
        if annotation is _ABSENT or not _has_text(annotation):
            return annotation
        scope = {**getattr(self._inner, "__globals__", {}), **self._names}
        place = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            return typing.get_type_hints(place, scope, include_extras=True)[name]
        except NameError as error:
            # It is imported for type checkers only.
            if isinstance(annotation, str) and annotation.rpartition(".")[2] in _NAMED:
                return _NAMED[annotation.rpartition(".")[2]]
            raise self.refuse(
                f"the annotation {annotation!r} of {name} cannot be resolved ({error}): import "
                "or define it at run time, before the handler"
            ) from error
        except (SyntaxError, TypeError, AttributeError) as error:
            raise self.refuse(
                f"the annotation {annotation!r} of {name} is no type ({error})"
            ) from error

    def _check_method(self) -> None:
        inner = self._inner
        if inspect.ismethod(inner) or not inspect.isfunction(inner):
            return
        names = list(inspect.signature(self._function).parameters)
        owner = inner.__qualname__.rpartition(".")[0]
        in_class = bool(owner) and not owner.endswith("<locals>")
        is_static = isinstance(self._function, staticmethod)
        if (names and names[0] in {"self", "cls"}) or (in_class and not is_static):
            raise self.refuse(
                "it is a method, which nobody calls with its object; decorate a function, or the "
                "bound method of an object"
            )

    def _check_progress_call(self) -> None:
        """Refuse a handler that calls `progress` and has neither a parameter nor such a name."""
        code = getattr(self._inner, "__code__", None)
        if code is None or hasattr(builtins, "progress"):
            return
        if "progress" in getattr(self._inner, "__globals__", {}) or not _loads_progress(code):
            return
        raise self.refuse(
            "it calls `progress`, which it does not take: add the parameter `progress: Progress`"
        )


def _inner(function: Callable[..., Any]) -> Any:
    """The function inside wrappers, partials and objects with a `__call__`."""
    while True:
        function = inspect.unwrap(function)
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, staticmethod):
            function = function.__func__
        elif inspect.isroutine(function) or inspect.isclass(function):
            return function
        else:
            return getattr(function, "__call__", function)  # noqa: B004


def _loads_progress(code: types.CodeType) -> bool:
    names = {"LOAD_GLOBAL", "LOAD_NAME"}
    if any(
        each.opname in names and each.argval == "progress" for each in dis.get_instructions(code)
    ):
        return True
    return any(_loads_progress(each) for each in code.co_consts if isinstance(each, types.CodeType))


def _has_text(annotation: Any) -> bool:
    return isinstance(annotation, str | typing.ForwardRef) or any(
        _has_text(each) for each in get_args(annotation) if get_origin(annotation) is not Literal
    )


def _is_any_object(annotation: Any) -> bool:
    """Whether an annotation allows every JSON object, so that there is nothing to convert."""
    if (get_origin(annotation) or annotation) not in {dict, Mapping, typing.Mapping, dict}:
        return False
    return get_args(annotation) in {(), (str, Any), (str, object), (Any, Any)}


def _text(annotation: Any) -> str:
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)
