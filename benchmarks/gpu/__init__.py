"""What the library computes on a GPU and how fast, by one command that fits into minutes.

    python -m benchmarks.gpu --out runs/gpu --minutes 8 --data-dir DATA

Stages, each bounded in time, each writing NAME.json when it ends: ``limits`` (measured matrix rate and bandwidth),
``tests`` (values and gradients against float64 on the CPU, checkpoints across devices, hidden synchronizations),
``probe``, ``dynamics``, ``tensors``, ``layers``, ``models``, ``long_range``; a summary table comes last.
``--device cpu --tiny`` rehearses all of it in a minute.  It runs from a checkout without an installation; packages that
are missing there can be given as wheels in a folder (``--wheels``).
"""
