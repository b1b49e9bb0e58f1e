"""Write a saved classifier as an ONNX file: `hf-biasensemble export-onnx --model OUT --output_file FILE.onnx`.

Needs the extra `onnx`.
"""

import importlib.util
from pathlib import Path

from hf_biasensemble.arguments.parser import StrictParser
from hf_biasensemble.internal.errors import BiasEnsembleError, missing_package
from hf_biasensemble.internal.files import written_whole

TOLERANCE = 1e-4


def main(argv: list[str]) -> int:
    """Exports `pixel_values` (B, C, H, W), normalised, to `logits` (B, K) with a dynamic batch size, and checks the
    logits if onnxruntime is installed."""
    parser = StrictParser(command="export-onnx", description=__doc__)
    parser.add_argument("--model", required=True, help="Folder or Hub id of a saved classifier.")
    parser.add_argument("--output_file", required=True, type=Path, help="ONNX file to write.")
    options = parser.parse_args(argv)
    if not importlib.util.find_spec("onnxscript"):
        raise missing_package("onnxscript", "onnx")
    import torch

    from hf_biasensemble.models.export import load_classifier

    model, transform, geometry = load_classifier(options.model)
    size = geometry.image_size

    images = torch.randint(256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = transform(images, training=False)
    with written_whole(options.output_file) as file, torch.inference_mode():
        torch.onnx.export(
            model,
            (inputs,),
            str(file),
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
        compared = "not compared: onnxruntime is not installed"
        if importlib.util.find_spec("onnxruntime"):
            import onnxruntime

            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            ours = torch.from_numpy(session.run(["logits"], {"pixel_values": inputs[:1].numpy()})[0])
            largest = float((ours - model(inputs[:1]).logits).abs().max())
            if not largest < TOLERANCE:
                raise BiasEnsembleError(f"expected the logits of {options.model}, found a difference of {largest:.2g}")
            compared = f"largest difference of logits {largest:.2g}"
    print(f"wrote {options.output_file} ({compared})")
    print(f"input: RGB at {size} x {size}, (pixel / 255 - mean) / std, {transform.image_mean}, {transform.image_std}")
    print(f"resize first by {geometry}")
    return 0
