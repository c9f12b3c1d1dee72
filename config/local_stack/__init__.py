"""The parts as processes on one machine, and the demo that controls them. No part imports it."""
