from importlib.util import find_spec

#: Without Keras, as in `make newest`, these files cannot be imported; all others run.
collect_ignore = (
    []
    if find_spec("keras")
    else [
        "test_applications.py",
        "test_efficientnet_lite.py",
        "test_networks.py",
        "test_openvino.py",
        "test_savedmodels.py",
        "test_scattering.py",
        "test_weights.py",
    ]
)
