"""Traces of requests, in OpenTelemetry's words."""
