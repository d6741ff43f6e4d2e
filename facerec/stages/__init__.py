"""The stages, one file each: path in, path out, a report back.

``stage(inputs, output, *, models, options, progress) -> StageReport``. A stage reads only `inputs` and
writes only below `output`, where a manifest says what became of each input. Run again, it does only
what is new or changed; killed anywhere and run again, nothing is lost or doubled.
"""
