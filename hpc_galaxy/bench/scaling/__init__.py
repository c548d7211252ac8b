"""Strong and weak scaling of extraction and training, under srun or mpirun."""
