"""One server with the documented configuration for all that is asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.permissions import World, documented_server, world_of


@pytest.fixture(scope="package")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with documented_server(tmp_path_factory.mktemp("permissions")) as url:
        yield url


@pytest.fixture
async def world(server_url: str) -> AsyncIterator[World]:
    async with world_of(server_url) as world:
        yield world
