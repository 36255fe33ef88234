"""Kinds that write one fixed header."""

from pathlib import Path

import pytest

from gateway import credentials
from gateway.config.secrets import SecretStore

from .fakes import NO_DEADLINE, Clock, added, outbound, services


@pytest.mark.parametrize(
    ("kind", "header", "value"),
    [
        pytest.param("app_code", "X-Apig-AppCode", "s3cret", id="app_code"),
        pytest.param("app_key", "apikey", "s3cret", id="app_key"),
        pytest.param("api_key", "Authorization", "Bearer s3cret", id="api_key"),
    ],
)
async def test_the_header_and_its_rotation(kind: str, header: str, value: str, tmp_path: Path) -> None:
    """The documented header, and a rotated secret from the next request on."""
    (tmp_path / "secret").write_text("s3cret\n")
    store = SecretStore()
    model = credentials.kinds()[kind].Settings
    settings = model.model_validate(
        {"kind": kind, kind: {"file": "secret"}}, context={"secrets": store, "folder": tmp_path}
    )
    credential = credentials.create("mine", settings, services(Clock()))
    before, after = outbound(), outbound()

    await credential.authorize(before, NO_DEADLINE)
    (tmp_path / "secret").write_text("r0tated\n")
    store.refresh()
    await credential.authorize(after, NO_DEADLINE)

    assert added(before) == {header: value}
    assert added(after) == {header: value.replace("s3cret", "r0tated")}
    assert credential.state().usable


async def test_none_adds_nothing() -> None:
    """An upstream without authentication gets nothing of ours."""
    settings = credentials.kinds()["none"].Settings.model_validate({"kind": "none"})
    request = outbound()

    await credentials.create("mine", settings, services(Clock())).authorize(request, NO_DEADLINE)

    assert added(request) == {}
