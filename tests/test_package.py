import subprocess
import sys

import htf


def test_import_has_no_side_effects():
    code = (
        "import threading, tensorly as tl, torch\n"
        "before = tl.get_backend(), torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads()\n"
        "import htf\n"
        "after = tl.get_backend(), torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads()\n"
        "assert before == after\n"
        "assert threading.active_count() == 1\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_public_names():
    assert htf.__all__ == sorted(htf.__all__)
    for name in htf.__all__:
        assert hasattr(htf, name)
