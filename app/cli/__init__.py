"""The command line of mission control: the console command `mission`."""
