"""The subcommands, one file each: HELP, EXAMPLES, ``add_arguments(parser)`` and ``run(args) -> Exit``.

Nothing heavy is imported at the top, so that ``facerec --help`` answers at once.
"""
