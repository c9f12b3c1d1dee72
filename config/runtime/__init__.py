"""What every part needs to run: settings, log lines, ports, API keys, heartbeats."""
