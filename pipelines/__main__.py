"""`python -m pipelines VERB` is `kindling VERB`."""

from pipelines.cli.main import main

main()
