"""Fake galaxies drawn into coadds with GalSim, with a truth table."""
