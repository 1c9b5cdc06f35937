"""PLY files as other programs write them: a writer that is not ours, of every variant."""

import numpy as np

KINDS = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}


def columns(gaussians):
    """The columns of 3DGS's layout by name, as float64: logarithms and logits, channels in turn."""
    g = gaussians
    rest = g.harmonics[:, 1:].transpose(1, 2).reshape(len(g), -1)
    parts = {"xyz"[i]: g.means[:, i] for i in range(3)}
    parts |= {f"f_dc_{i}": g.harmonics[:, 0, i] for i in range(3)}
    parts |= {f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])}
    parts |= {"opacity": g.opacities.logit()}
    parts |= {f"scale_{i}": g.scales[:, i].log() for i in range(3)}
    parts |= {f"rot_{i}": g.quaternions[:, i] for i in range(4)}
    return {name: values.double().numpy() for name, values in parts.items()}


def write_variant(
    path,
    table,
    order="<",
    kind="f4",
    newline="\n",
    before=(),
    rows_before=b"",
    rows_after=b"",
    after=(),
    notes=(),
):
    """A PLY of `table` (values by name) in a byte order and type; other elements as they come."""
    count = len(next(iter(table.values())))
    word = {"f4": "float", "f8": "double"}[kind]
    lines = ["ply", f"format {KINDS[order]} 1.0", *notes, *before, f"element vertex {count}"]
    lines += [*(f"property {word} {name}" for name in table), *after, "end_header", ""]
    if order:
        layout = np.dtype([(name, order + kind) for name in table])
        rows = np.zeros(count, layout)
        for name, values in table.items():
            rows[name] = values
        body = rows.tobytes()
    else:
        numbers = np.stack(list(table.values()), 1)
        body = "".join(" ".join(map(repr, row)) + newline for row in numbers.tolist()).encode()
    header = newline.join(lines).encode()
    path.write_bytes(header + rows_before + body + rows_after)
    return path
