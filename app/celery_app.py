"""The Celery application: it spreads the steps over machines, and is not the record."""

from celery import Celery
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown
from opentelemetry import trace

from app.config import get_settings
from app.logging_config import configure

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
)


@setup_logging.connect
def _configure(**_: object) -> None:
    configure(get_settings(), "celery-worker")


@worker_process_init.connect
def _after_fork(**_: object) -> None:
    configure(get_settings(), "celery-worker")


@worker_process_shutdown.connect
def _before_exit(**_: object) -> None:
    shutdown = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shutdown:
        shutdown()
