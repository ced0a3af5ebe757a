"""What programs that talk to an Armwise service use. The service itself is `service`, its mathematics `bandit`."""
