"""`python -m app.cli`: the same as the console command `mission`."""

from app.cli.main import main

main()
