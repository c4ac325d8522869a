"""Fixtures: the packages, compiled and staged, and the executor under test."""

import signal
from pathlib import Path

import pytest
from helpers import build
from helpers.executor import OWN_COMMAND, Executor

from spider_executor import ExecutorHandle

# A shell lets its background jobs ignore SIGINT and SIGQUIT, and nohup SIGHUP.
# Executors must not inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The packages that --package-dir may have.
SPIDERS_OWN = ("integration_test_tasks", "complex")


def pytest_addoption(parser):
    group = parser.getgroup("spider")
    group.addoption(
        "--executor",
        help="run the tests of the process against this spider-task-executor",
    )
    group.addoption(
        "--package-dir", help=f"take {' and '.join(SPIDERS_OWN)} from this directory"
    )


def pytest_report_header(config):
    return build.missing()


@pytest.fixture(scope="session")
def executor_command(request):
    """The command of the executor under test."""
    path = request.config.getoption("--executor")
    return OWN_COMMAND if path is None else [str(Path(path).resolve())]


@pytest.fixture(scope="session")
def build_package(tmp_path_factory):
    return build.PackageBuilder(tmp_path_factory.mktemp("libraries"))


@pytest.fixture(scope="session")
def package_dir(
    request,
    tmp_path_factory,
    build_package,
):
    """A directory with Spider's own packages and every one of tests/packages/."""
    directory = tmp_path_factory.mktemp("packages")
    given = request.config.getoption("--package-dir")
    sources = build.package_sources()
    for name in SPIDERS_OWN:
        if given is None:
            sources.append(build.NATIVE / f"{name}.c")
        else:
            library = Path(given).resolve() / name / f"lib{name}.so"
            build.stage(directory, name, library)
    for source, library in zip(sources, build_package.all_of(sources)):
        build.stage(directory, source.stem, library)
    return directory


@pytest.fixture
def spawn(executor_command, package_dir):
    """Start executors on pipes: spawn(package_dir, command=..., and Executor's).

    After the test the log of each is checked, then its process group is killed.
    """
    started = []

    def start(
        package_dir=package_dir,
        command=executor_command,
        **options,
    ):
        started.append(Executor(command, package_dir, **options))
        return started[-1]

    yield start
    try:
        for executor in started:
            executor.check_log()
    finally:
        for executor in started:
            executor.kill()


@pytest.fixture
def handle(executor_command, package_dir):
    """An ExecutorHandle with the executor under test."""
    with ExecutorHandle(package_dir, executor_command) as handle:
        yield handle
