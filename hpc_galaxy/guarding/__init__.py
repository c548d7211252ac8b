"""What ends a job in good order: signals from outside, and a watch over ranks that no longer advance."""
