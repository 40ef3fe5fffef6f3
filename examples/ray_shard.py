"""Write class folders into shards on a Ray cluster: `python examples/ray_shard.py FOLDER OUT [--address auto]`.

The same as `resflow shard --format folder FOLDER OUT --engine ray`: the shards are those that one machine would write,
byte for byte. FOLDER and OUT lie on a file system that all machines see.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resflow.sources import class_folder_samples
from resflow.sources.ray_tasks import ray_cluster, ray_write_shards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--address", help="of the cluster; a cluster on this machine if left out")
    arguments = parser.parse_args()
    images = class_folder_samples(arguments.folder.absolute())
    with ray_cluster(arguments.address):
        paths = ray_write_shards(images.part, len(images), arguments.out / "%06d.tar", max_samples=1000)
    print(f"{len(images)} images in {len(paths)} shards; now: resflow index '{paths[0].parent}/*.tar' --engine ray")


if __name__ == "__main__":
    main()
