"""Finds the application that the settings name: an application's own operations, or one forward of everything.

The application's modules are imported from the working directory, which comes last in the module search path.
"""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from penstock.errors import Misconfigured
from penstock.forwarding.upstream import REST
from penstock.operations import Operations
from penstock.settings import Settings, require_app


def find_application(settings: Settings) -> Operations[Any]:
    """Return the application's operations. Raise Misconfigured, with the reason, if there are none.

    An upstream that does not answer is not an error here: its operations are retried.
    """
    if settings.upstream is None:
        return load_application(require_app(settings))
    secret = settings.upstream_authorization
    operations: Operations[Any] = Operations()
    operations.forward(
        f"/{REST}",
        to=settings.upstream,
        headers=settings.passed_headers,
        add_headers={"Authorization": secret.get_secret_value()} if secret else None,
        timeout_seconds=settings.upstream_timeout_seconds,
        max_attempts=settings.upstream_max_attempts,
        max_result_bytes=settings.upstream_result_bytes,
    )
    return operations


def load_application(name: str) -> Operations[Any]:
    """Return the Operations that `module:attribute` names. Raise Misconfigured, with the reason, if there are none."""
    module_name, _, attribute = name.partition(":")
    if not module_name or module_name.startswith(".") or not attribute:
        raise Misconfigured(
            f"The application {name!r} is invalid. Name it as MODULE:ATTRIBUTE, such as shop.bulk:operations."
        )
    _check_is_not_pythons(module_name)
    try:
        with importing_from_working_directory(module_name):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the application was found, but something that it imports was not
        raise Misconfigured(
            f"There is no module {error.name!r} (for {name!r}). Start Penstock where the application can be imported."
            f"{_found_elsewhere(module_name)}"
        ) from error
    return _operations_in(module, attribute, name)


@contextmanager
def importing_from_working_directory(module_name: str) -> Iterator[None]:
    """Let the application's modules be imported from the working directory.

    The directory becomes the last one of the module search path, and stays there. So nothing in it replaces a module of
    Python, of Penstock or of a dependency. The application's own package is searched there first: a dependency may have
    installed a package of the same name, such as `tests`.
    """
    folder = os.getcwd()  # noqa: PTH109 - as sys.path has it
    if folder not in sys.path:
        sys.path.append(folder)
    finder = _ApplicationFinder(_package_of(module_name), folder)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _ApplicationFinder(MetaPathFinder):
    """Finds one package in one folder, and no other module."""

    def __init__(self, package: str, folder: str) -> None:
        self._package = package
        self._folder = folder

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the import system passes these
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, [self._folder]) if fullname == self._package else None
        # A folder without __init__.py may hold data instead of modules: then the usual search decides.
        return spec if spec is not None and spec.origin is not None else None


def _operations_in(module: ModuleType, attribute: str, name: str) -> Operations[Any]:
    operations = getattr(module, attribute, None)
    if not isinstance(operations, Operations):
        if operations is None:
            trouble = f"{module.__name__!r} has no {attribute!r}"
        else:
            trouble = f"{attribute!r} of {module.__name__!r} is of type {type(operations).__name__}"
        advice = f"{_advice_for(module)}{_found_elsewhere(module.__name__)}"
        raise Misconfigured(f"The application {name!r} is invalid: {trouble}. {advice}")
    if not operations.routes:
        raise Misconfigured(f"The application {name!r} has no handler. Register one.")
    return operations


def _advice_for(module: ModuleType) -> str:
    """Return a sentence that names the applications of a module."""
    names = [f"{module.__name__}:{name}" for name, value in vars(module).items() if isinstance(value, Operations)]
    return f"Use {' or '.join(names)}." if names else "Name an Operations()."


def _check_is_not_pythons(module_name: str) -> None:
    package = _package_of(module_name)
    if package in sys.stdlib_module_names:
        raise Misconfigured(
            f"Rename the application's module {package!r}: Python's standard library has a module of this name."
        )


def _found_elsewhere(module_name: str) -> str:
    """Return a sentence if Python imported another package of this name than the one in the working directory."""
    package = _package_of(module_name)
    ours = PathFinder.find_spec(package, [os.getcwd()])  # noqa: PTH109
    imported = getattr(sys.modules.get(package), "__file__", None)
    if ours is None or imported is None or ours.origin == imported:
        return ""
    return f" Python imported {package!r} from {imported}. Rename the one in the working directory."


def _package_of(module_name: str) -> str:
    return module_name.partition(".")[0]
