"""The web application: `uvicorn web:app`. The handlers run elsewhere: `sagastream run shop`."""

import os

from fastapi import FastAPI, HTTPException

from sagastream import Bus
from sagastream.saga import SagaRunner
from shop import ORDER, Order, Payment

orders = SagaRunner(Bus(os.environ["REDIS_URL"]), ORDER)
app = FastAPI()


@app.post("/orders")
async def order(order: Order) -> Payment:
    outcome = await orders.run(await orders.start(order, saga_id=order.id))
    if outcome.status != "completed":
        raise HTTPException(409, outcome.error["message"])
    return Payment.model_validate(outcome.results["card:charge"])
