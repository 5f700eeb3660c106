"""Shards of small pictures of noise, as webdataset and Hugging Face write them."""

import io
import json
import tarfile

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
SIDE = 16


def encode(number, form="PNG"):
    pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_parquet(path, images, labels, *, kind=STRUCT, features=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": pa.array(images, kind), "label": labels})
    if features:
        about = json.dumps({"info": {"features": {"image": {"_type": "Image"}, **features}}})
        table = table.replace_schema_metadata({"huggingface": about})
    parquet.write_table(table, path, **options)
    return path
