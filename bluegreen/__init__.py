"""Blue-green deployments of a containerised web app, without a failed request."""

__version__ = "0.1.0"
