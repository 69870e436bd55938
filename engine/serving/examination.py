"""Looks for mistakes in a factory's model without compiling it: all that `brim check` can know."""

from __future__ import annotations

from engine.models import registry
from engine.models.config import ModelConfig
from engine.warmup.golden import check_golden


def examine(config: ModelConfig) -> registry.Checked:
    """Call the factory on the CPU, and trace every bucket for its shapes. Returns what is known
    then. Raises what a start of the server would fail with, in its words. The model is loaded, its
    weights too; nothing is compiled, and no other device is used.
    """
    # they import JAX
    from engine.compilation.tracing import TraceableProgram, on_the_cpu

    with on_the_cpu():
        model = registry.load(config)
        model.check(config.grid)
        program = TraceableProgram(model)
        for bucket in config.grid.buckets:
            program.trace(bucket)
        check_golden(model.signature, model.program, config.grid.bucket_lengths)
    signature = model.signature
    return registry.Checked(
        sum(int(leaf.nbytes) for leaf in program.leaves),
        f"factory {config.source.factory}" + (f"; {program.remark}" if program.remark else ""),
        (*signature.device_inputs, *signature.device_outputs),
    )
