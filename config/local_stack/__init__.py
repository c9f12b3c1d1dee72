"""The parts as processes of one machine, and the demo that conducts them. Imported by no part."""
