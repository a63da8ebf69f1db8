"""What a listener runs: consumer, claim, handler execution, lease keeper."""
