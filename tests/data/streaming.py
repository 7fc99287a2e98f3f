"""What tests of streamed corpora share: files, and corpora both ways."""

from ppl_text.data.catalogue import load_corpus

WORDS = [f"w{i}" for i in range(60)]


def lines_of(rng, number, longest=13):
    """Texts of 1 to ``longest`` - 1 words, rare ones among them."""
    sizes = rng.integers(1, longest, size=number).tolist()
    return [" ".join(rng.choice(WORDS, size=n) if n % 5 else [f"r{i}"]) for i, n in enumerate(sizes)]


def write(path, lines, start=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((start + "".join(f"{line}\n" for line in lines)).encode())
    return path


def loaded(path, **options):
    return load_corpus(str(path), unit="sentences", **options)


def both(path, **options):
    """The corpus in memory, and streamed."""
    return loaded(path, **options), loaded(path, stream=True, **options)
