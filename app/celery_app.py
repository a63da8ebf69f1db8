"""The Celery application: it spreads the steps over machines, and is not the record.

Its telemetry is made where tasks run: in each child of a prefork pool, after the fork, and
in the worker itself with any other pool.
"""

from typing import Any

from celery import Celery
from celery.concurrency.prefork import TaskPool as PreforkPool
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)

from app.config import get_settings
from app.logging_config import configure, configure_logs
from app.observability import providers

celery_app = Celery("app", broker=get_settings().broker_url, include=["app.tasks"])
celery_app.conf.update(
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        "global_keyprefix": f"{{{get_settings().namespace}}}:" if get_settings().namespace else "",
        "socket_timeout": 5,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    task_acks_late=True,
    task_ignore_result=True,
    task_publish_retry=True,
    task_reject_on_worker_lost=False,
    task_serializer="json",
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    # A child imports all that a mission needs: on a busy machine Celery's 4 s kill it for ever.
    worker_proc_alive_timeout=60.0,
)


@setup_logging.connect
def _set_up_logs(**_: object) -> None:
    configure_logs(get_settings(), "celery-worker")


@celeryd_after_setup.connect
def _before_tasks(instance: Any, **_: object) -> None:
    if not issubclass(instance.pool_cls, PreforkPool):
        configure(get_settings(), "celery-worker")


@worker_process_init.connect
def _after_fork(**_: object) -> None:
    configure(get_settings(), "celery-worker")


@worker_process_shutdown.connect
@worker_shutdown.connect
def _before_exit(**_: object) -> None:
    providers.shut_down()


@worker_ready.connect
def _answer_probes(**_: object) -> None:
    if get_settings().http_port:
        from app.tasks import watch_loop  # noqa: PLC0415 - the tasks import this module

        watch_loop()
