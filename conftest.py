"""Fixtures: the packages, compiled by the system's compiler and staged, and the executor that the tests talk to."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import build
from helpers.executor import OWN_COMMAND, Executor

# A shell lets its background jobs ignore SIGINT and SIGQUIT, and nohup SIGHUP. Executors must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The packages that --package-dir may have.
SPIDERS_OWN = ("integration_test_tasks", "complex")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("spider")
    group.addoption(
        "--executor",
        help="run the tests of the process against this spider-task-executor",
    )
    group.addoption(
        "--package-dir", help=f"take {' and '.join(SPIDERS_OWN)} from this directory"
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    return build.missing()


@pytest.fixture(scope="session")
def executor_command(request: pytest.FixtureRequest) -> list[str]:
    """The command of the executor under test."""
    path = request.config.getoption("--executor")
    return OWN_COMMAND if path is None else [str(Path(path).resolve())]


@pytest.fixture(scope="session")
def build_package(tmp_path_factory: pytest.TempPathFactory) -> build.PackageBuilder:
    return build.PackageBuilder(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(scope="session")
def package_dir(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    build_package: build.PackageBuilder,
) -> Path:
    """A directory with integration_test_tasks and complex, and with every package of tests/packages/."""
    directory = tmp_path_factory.mktemp("packages")
    others = request.config.getoption("--package-dir")
    sources = build.package_sources()
    if others is None:
        sources += [build.NATIVE / f"{name}.c" for name in SPIDERS_OWN]
    else:
        for name in SPIDERS_OWN:
            build.stage(
                directory, name, Path(others).resolve() / name / f"lib{name}.so"
            )
    for library, source in zip(build_package.all_of(sources), sources):
        build.stage(directory, source.stem, library)
    return directory


@pytest.fixture
def spawn(executor_command: list[str], package_dir: Path) -> Iterator[object]:
    """Start executors on pipes: spawn(package_dir, command=..., env={...}, shell=..., and options for Popen).

    After the test each of them is killed, with the process group that it leads, if any, and its log is checked.
    """
    started: list[tuple[Executor, bool]] = []

    def start(
        package_dir: object = package_dir,
        command: list[str] = executor_command,
        **options: object,
    ) -> Executor:
        executor = Executor(command, package_dir, **options)
        started.append((executor, bool(options.get("start_new_session"))))
        return executor

    yield start
    try:
        for executor, _ in started:
            executor.check_log()
    finally:
        for executor, leads_group in started:
            if leads_group:
                try:
                    os.killpg(executor.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            executor.kill()


@pytest.fixture
def handle(executor_command: list[str], package_dir: Path) -> Iterator[object]:
    """An ExecutorHandle with the executor under test."""
    from spider_executor import ExecutorHandle

    with ExecutorHandle(package_dir, executor_command) as handle:
        yield handle
