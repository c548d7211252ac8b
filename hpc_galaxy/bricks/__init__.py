"""What a survey gives us: names, paths, coadds, catalogs, and a synthetic survey."""
