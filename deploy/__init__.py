"""What runs Armwise beside its own code: Prometheus, Grafana, containers. No part of the package that is installed."""
