"""The ASGI application: MONAI Label's own, answering while a model runs, with readable errors and a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, Depends, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints.batch_infer import run as run_batch
from monailabel.endpoints.infer import run_inference
from monailabel.endpoints.train import run_model as run_training
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import ImageNotFoundException, MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance

from .training import check_enough

Options = Annotated[dict[str, Any] | None, Body()]


def start_training(model: str, params: Options = None, run_sync: bool = False, enqueue: bool = False) -> dict[str, Any]:
    """Start to train a stage, if there is one of this name and something to train it on."""
    instance = app_instance()
    check_name(model, instance.info()["trainers"])
    check_enough(instance.datastore().datalist())
    return run_training(model, params, run_sync, enqueue)


def start_batch(
    model: str, images: BatchInferImageType = BatchInferImageType.IMAGES_ALL, params: Options = None
) -> dict[str, Any]:
    """Start to run a model on many scans."""
    check_name(model, app_instance().info()["models"])
    return run_batch(model, images, params)


def check_name(name: str, known: dict[str, Any]) -> None:
    """Refuse a model that is not there."""
    if name not in known:
        raise ValueError(f"no model {name!r}; there are {', '.join(known)}")


def refuse(_: Request, error: Exception) -> JSONResponse:
    """Return an error as one sentence that reaches the viewer."""
    status = 404 if isinstance(error, ImageNotFoundException) else 422
    text = getattr(error, "msg", None) or " ".join(str(error).split())
    return JSONResponse({"detail": text}, status)


# Plain functions run in threads. MONAI Label's own are coroutines that block every other request meanwhile.
user, admin = (
    [Depends(RBAC(role))] for role in (settings.MONAI_LABEL_AUTH_ROLE_USER, settings.MONAI_LABEL_AUTH_ROLE_ADMIN)
)
app.router.routes[:0] = [
    APIRoute("/infer/{model}", run_inference, methods=["POST"], dependencies=user, response_model=None),
    APIRoute("/train/{model}", start_training, methods=["POST"], dependencies=admin, response_model=None),
    APIRoute("/batch/infer/{model}", start_batch, methods=["POST"], dependencies=admin, response_model=None),
]
# Pages of other origins have no business here; MONAI Label lets all of them read every scan.
app.user_middleware[:] = [middleware for middleware in app.user_middleware if middleware.cls is not CORSMiddleware]
app.add_exception_handler(ValueError, refuse)
app.add_exception_handler(MONAILabelException, refuse)
app.mount("/spine", StaticFiles(directory=Path(__file__).parent / "page", html=True), name="spine")
