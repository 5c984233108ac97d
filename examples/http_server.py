"""The smallest HTTP server around a sealed model: rows in clear, and confidential requests. No tokens, no limits.

Usage: python http_server.py iris.sealed      (seal_and_predict.py makes one; `make serve` starts the real server)
"""

from __future__ import annotations

import sys

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import confidential_ml as cml
from confidential_ml import simulated_platform

enclave = cml.Enclave()
model = cml.ConfidentialModel.load_sealed(sys.argv[1] if len(sys.argv) > 1 else "iris.sealed", enclave=enclave)
is_simulated = enclave.identity.platform != "openenclave"
collateral = simulated_platform.of_this_installation().collateral() if is_simulated else None
endpoint = cml.ConfidentialEndpoint(enclave, collateral=collateral)


async def predict(request: Request) -> Response:
    """Rows that the operator of this machine can read."""
    try:
        rows = np.array((await request.json())["features"], dtype=np.float32)
        values = model.predict(np.atleast_2d(rows))
    except (ValueError, KeyError, TypeError) as error:
        return JSONResponse({"error": type(error).__name__}, status_code=400)
    return JSONResponse({"predictions": values.tolist()})


async def confidential(request: Request) -> Response:
    """Messages of cml.RemoteModel, which only the enclave can read."""
    return Response(await run_in_threadpool(endpoint.handle, await request.body()))


app = Starlette(
    routes=[
        Route("/predict", predict, methods=["POST"]),
        Route("/confidential", confidential, methods=["POST"]),
    ]
)

if __name__ == "__main__":
    print(model)
    uvicorn.run(app, host="127.0.0.1", port=8080)
