"""The same work in PyTorch, for `benchmarks/embed.py`; runs in an environment of its own.

    python -m venv torch-env && torch-env/bin/pip install torch transformers pillow

It reads the names of folders from stdin, embeds all images in each, and prints the seconds that took. It is
written as is usual today: transformers' model of the same architecture, channels last, inference mode, a DataLoader
with two workers, Pillow.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

BATCH = 32
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def build(name):
    """Build the network with random weights."""
    if name == "mobilenetv2":
        return transformers.MobileNetV2Model(transformers.MobileNetV2Config())
    if name == "resnet50":
        return transformers.ResNetModel(transformers.ResNetConfig())
    config = transformers.EfficientNetConfig(
        width_coefficient=1.0, depth_coefficient=1.0, hidden_dim=1280, image_size=224, dropout_rate=0.2
    )
    return transformers.EfficientNetModel(config)


class Photographs(torch.utils.data.Dataset):
    """Decoded, resized and scaled pictures."""

    def __init__(self, folder):
        self.paths = sorted(Path(folder).rglob("*.jpg"))

    def __len__(self):
        """Count the pictures."""
        return len(self.paths)

    def __getitem__(self, index):
        """Read one picture, float32 (3, 224, 224)."""
        with Image.open(self.paths[index]) as image:
            pixels = image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        values = (np.asarray(pixels, np.float32) / 255 - MEAN) / DEVIATION
        return torch.from_numpy(values).permute(2, 0, 1)


def main():
    """Embed each folder that is named on stdin."""
    network = build(sys.argv[1]).eval().to(memory_format=torch.channels_last)
    print("ready", torch.__version__, transformers.__version__, flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        loader = torch.utils.data.DataLoader(Photographs(line.strip()), batch_size=BATCH, num_workers=2)
        with torch.inference_mode():
            torch.cat(
                [
                    network(batch.contiguous(memory_format=torch.channels_last)).pooler_output.flatten(1)
                    for batch in loader
                ]
            )
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
