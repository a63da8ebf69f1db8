"""The Celery application: its broker and its settings.

Celery distributes the steps of missions over machines. It is not the source of truth: the
saga's journal is. The tasks and the signal handlers of a worker are in `app.tasks`.
"""

from celery import Celery
from kombu.exceptions import OperationalError

from app.broker import broker_settings
from app.config import settings_or_exit

TASK_QUEUE = "celery"

_settings = settings_or_exit()
_broker = broker_settings(_settings.celery_url)
celery_app = Celery("app", include=["app.tasks"])
celery_app.conf.update(
    accept_content=["json"],
    broker_connection_retry_on_startup=True,
    broker_url=_broker["broker_url"],
    broker_use_ssl=_broker.get("broker_use_ssl", False),
    broker_transport_options=_broker["broker_transport_options"]
    | {
        "global_keyprefix": f"{{{_settings.namespace}}}:" if _settings.namespace else "",
        "socket_timeout": 5,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    },
    task_acks_late=True,
    task_default_queue=TASK_QUEUE,
    task_ignore_result=True,
    task_publish_retry=True,
    task_reject_on_worker_lost=False,
    task_serializer="json",
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    # A child imports everything that a mission needs. On a busy machine that takes longer than
    # Celery's default of 4 s, after which it would kill every child.
    worker_proc_alive_timeout=60.0,
)


def count_workers(timeout_s: float) -> int:
    """Return how many Celery workers answer a ping; 0 if the broker does not answer.

    This blocks for the whole timeout, even when all workers have answered.

    Args:
        timeout_s: Seconds to wait for answers.
    """
    try:
        return len(celery_app.control.ping(timeout=timeout_s))
    except OperationalError:
        return 0
