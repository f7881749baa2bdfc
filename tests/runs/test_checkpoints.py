"""Complete checkpoints are used, incomplete ones ignored, changed ones refused."""

import pytest

from tampo.runs.checkpoints import SEAL, DamagedCheckpoint, last_whole_checkpoint, seal_checkpoint


@pytest.fixture
def folder(tmp_path):
    """Three sealed checkpoints; the newest by number is not the last by name."""
    for step in (8, 9, 10):
        checkpoint = tmp_path / f"checkpoint-{step}"
        (checkpoint / "shards").mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(bytes([step]) * 100)
        (checkpoint / "shards" / "0.pt").write_bytes(bytes([step]) * 50)
        seal_checkpoint(checkpoint)
    return tmp_path


def test_the_newest_whole_one_is_taken(folder):
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-10")
    (folder / "checkpoint-11").mkdir()
    (folder / "checkpoint-11" / "model.safetensors").write_bytes(b"cut off")
    assert last_whole_checkpoint(folder) == str(folder / "checkpoint-10")
    assert last_whole_checkpoint(folder / "nowhere") is None


@pytest.mark.parametrize("name", ["model.safetensors", "shards/0.pt", SEAL])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "emptied"])
def test_damage_is_named_with_the_way_out(folder, name, damage):
    path = folder / "checkpoint-10" / name
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        changed = {"truncated": content[:-5], "flipped": content[:-3] + b"\x00" + content[-2:], "emptied": b""}
        path.write_bytes(changed[damage])
    if damage == "removed" and name == SEAL:  # looks incomplete
        assert last_whole_checkpoint(folder) == str(folder / "checkpoint-9")
        return
    with pytest.raises(DamagedCheckpoint, match=rf"{name} .*Remove the folder .*checkpoint-10 to resume from .*-9"):
        last_whole_checkpoint(folder)


def test_the_only_one_cannot_be_replaced(folder):
    for step in (8, 9):
        (folder / f"checkpoint-{step}" / SEAL).unlink()
    (folder / "checkpoint-10" / "model.safetensors").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"model.safetensors is missing. Remove .* to start from the beginning"):
        last_whole_checkpoint(folder)
