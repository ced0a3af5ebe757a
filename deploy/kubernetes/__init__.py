"""Monitoring for a cluster: `python -m deploy.kubernetes.make_rules` writes rules.yaml."""
