"""A CTC model on the hub or in a folder, made into a folder of int8 weights."""

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer
from transformers.utils import logging as transformers_logging

from consumer.engines import ctc, ctc_int8


def write_int8(model: str, out: Path, *, revision: str | None) -> int:
    """Write all that ``ctc.load`` needs; the bytes of the weights.

    Raises ValueError where the model is quantised already or is none that can be, OSError where it cannot be read or
    the folder not be written.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if ctc_int8.is_quantised(model):
        raise ValueError("it is quantised already; it can be served as it is")
    source: dict[str, Any] = {"revision": revision, "local_files_only": Path(model).is_dir()}
    config = AutoConfig.from_pretrained(model, **source)
    ctc.check_kind(model, config)
    ctc.compute_type_of("int8", model, config.model_type, "cpu")
    network = ctc.load_float32(model, source)
    ctc_int8.quantise(network)
    out.mkdir(parents=True, exist_ok=True)
    AutoTokenizer.from_pretrained(model, **source).save_pretrained(out)
    AutoFeatureExtractor.from_pretrained(model, **source).save_pretrained(out)
    if card := ctc.model_card(model, source):
        shutil.copyfile(card, out / "README.md")
    ctc_int8.save(network, out, model=model, revision=getattr(config, "_commit_hash", None) or revision)
    return (out / ctc_int8.WEIGHTS_FILE).stat().st_size
