"""Run by test_loop in two processes: train whole, stop, resume; write what each process saw."""

import contextlib
import json
import sys
from pathlib import Path

from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parent))
from short_runs import fit

out = Path(sys.argv[1])
process = Accelerator().process_index
for optimizer in ("muon", "adamw"):
    whole = fit(out / optimizer / "whole", optimizer=optimizer)
    with contextlib.suppress(KeyboardInterrupt):
        fit(out / optimizer / "broken", stop_at=5, optimizer=optimizer)
    resumed = fit(out / optimizer / "broken", optimizer=optimizer)
    (out / f"{optimizer}_{process}.json").write_text(
        json.dumps(
            {
                "losses": whole.losses,
                "resumed": resumed.losses,
                "weights": [p.tolist() for p in whole.weights],
                "ends_alike": resumed.ends_like(whole),
            }
        )
    )
Accelerator().end_training()
