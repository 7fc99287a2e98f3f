"""Peak memory: of a streamed corpus it does not grow with the text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FEW, MANY = 20_000, 200_000

CHILD = """
import sys
from pathlib import Path

from ppl_text.data.batches import default_buckets
from ppl_text.data.blocks import BlockBatches, epochs_over
from ppl_text.data.catalogue import load_corpus


def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


BlockBatches.block_tokens, BlockBatches.pool_tokens = 2**10, 2**15
for path in sys.argv[2:]:
    before = kib("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    corpus = load_corpus(path, unit="sentences", stream=sys.argv[1] == "streamed")
    train = corpus.splits["train"]
    stream = epochs_over(train, batch_size=256, buckets=default_buckets(train, 2), seed=0)
    rows = sum(int(next(stream).weights.sum()) for _ in range(stream.batches_per_epoch))
    if rows != len(train):
        raise SystemExit("not every row came once")
    print(kib("VmHWM:") - before)
    del corpus, train, stream
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is asked of Linux")
def test_memory_does_not_grow_with_the_text(tmp_path):
    """200,000 lines, loaded and gone through, take a fraction of what they take in memory, after 20,000 of them."""
    paths = [tmp_path / f"{lines}.txt" for lines in (FEW, MANY)]
    for path, lines in zip(paths, (FEW, MANY), strict=True):
        path.write_text("".join(f"lengthy{i % 300} wordy{i * 7 % 311} long{i * 3 % 101}\n" for i in range(lines)))
    own, taken = {**os.environ, "PPL_TEXT_CACHE": str(tmp_path / "cache")}, {}
    for way in ("streamed", "memory"):
        command = [sys.executable, "-c", CHILD, way, *map(str, paths)]
        done = subprocess.run(command, env=own, stdout=subprocess.PIPE, text=True, check=True)
        taken[way] = int(done.stdout.split()[1])
    assert taken["memory"] > 20 * 1024, "KiB: what 200,000 lines have to take for this to be a test"
    assert taken["streamed"] < taken["memory"] / 3, taken
