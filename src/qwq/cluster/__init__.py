"""Training on several processes: one machine by plain processes, more by torchrun or Slurm.

    place.py     which process this is, from the environment variables of the launcher
    launch.py    starts the processes of one machine and watches them
    world.py     what the processes tell each other; every wait has a time-out from the recipe
    division.py  how a step's batch is divided and its gradient put together: whole, fixed, scatter
    divide.py    which of them a recipe asks for
    sharded.py   the scatter reduction: FSDP2
    ulysses.py   the tokens of a pass divided over several processes

`docs/cluster.md` says how to run it, and what was tried.
"""
