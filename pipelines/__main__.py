"""`python -m pipelines VERB` is `kindling VERB`."""

from pipelines.cli import main

main()
