"""Writes the HDF5 files beside it (h5py 3.16, HDF5 2.0). All hold the same layers."""

import h5py
import numpy as np

WEIGHTS = np.arange(6, dtype="f4").reshape(2, 3) - 2.5
BIAS = np.array([0.5, -1], "f4")
KERNEL = np.arange(2 * 5 * 7, dtype="f4").reshape(2, 5, 7)


def fill(path, kernel, numbers="<f4", **options):
    with h5py.File(path, "w", **options) as file:
        data = file.create_group("data")
        ip = data.create_group("ip")
        ip.create_dataset("0", data=WEIGHTS.astype(numbers))
        ip.create_dataset("1", data=BIAS.astype(numbers))
        data.create_group("relu")
        # As a layer called `block/conv` whose second parameter is shared.
        conv = data.create_group("block").create_group("conv")
        conv.create_dataset("0", data=KERNEL, **kernel)
        conv.create_dataset("2", data=BIAS.astype("f8"))


fill("classic.h5", {})
fill("latest.h5", {}, libver="latest")
packed = {"chunks": (1, 2, 4), "compression": "gzip", "shuffle": True, "fletcher32": True}
fill("packed.h5", packed, ">f4")
fill("chunked.h5", {"chunks": (2, 5, 7)}, "<f2")
fill("integers.h5", {"dtype": ">i2"}, "<f8")
