"""robotrl: train robot controllers in simulation, verify them, ship them as one file."""

__version__ = "0.1.0"
