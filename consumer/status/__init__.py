"""What the service is doing at this moment: readings, their instruments, and the HTTP port that shows them."""
