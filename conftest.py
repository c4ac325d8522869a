"""Fixtures: the packages, compiled by the system's compiler and staged, and the executor that the tests talk to."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import support

ROOT = Path(__file__).resolve().parent


# A shell has its background jobs ignore SIGINT, and nohup SIGHUP; every executor that a test starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("spider")
    group.addoption("--executor", help="run the process-level tests against another spider-task-executor")
    group.addoption("--package-dir", help="take integration_test_tasks and complex from this directory")


@pytest.fixture(scope="session")
def executor_command(request: pytest.FixtureRequest) -> list[str]:
    """What starts the executor under test."""
    path = request.config.getoption("--executor")
    return support.OWN_COMMAND if path is None else [str(Path(path).resolve())]


@pytest.fixture(scope="session")
def build_package(tmp_path_factory: pytest.TempPathFactory) -> support.PackageBuilder:
    """Compiles C or C++ into a shared library, each source and set of flags once."""
    return support.PackageBuilder(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(scope="session")
def package_dir(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, build_package: support.PackageBuilder
) -> Path:
    """A directory with every package of native/ and of tests/packages/ in it."""
    directory = tmp_path_factory.mktemp("packages")
    sources = [*ROOT.glob("native/*.c"), *ROOT.glob("native/*.cpp")]
    sources += [*ROOT.glob("tests/packages/*.c"), *ROOT.glob("tests/packages/*.cpp")]
    others = request.config.getoption("--package-dir")
    for source in sources:
        if others is not None and source.stem in ("integration_test_tasks", "complex"):
            support.stage(directory, source.stem, Path(others).resolve() / source.stem / f"lib{source.stem}.so")
        elif source.suffix == ".c" or support.CXX is not None:
            support.stage(directory, source.stem, build_package(source))
    return directory


@pytest.fixture
def spawn(executor_command: list[str], package_dir: Path):
    """Starts executors on pipes, and leaves none behind."""
    children: list[support.Child] = []

    def start(package_dir: object = package_dir, **options: object) -> support.Child:
        child = support.Child(executor_command, package_dir, **options)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()


@pytest.fixture
def handle(executor_command: list[str], package_dir: Path):
    """An ExecutorHandle over the executor under test."""
    from spider_executor import ExecutorHandle

    with ExecutorHandle(package_dir, executor_command) as handle:
        yield handle
