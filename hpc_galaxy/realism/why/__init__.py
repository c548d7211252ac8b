"""Why fakes are told apart: mean stamps, what the network looks at, the galaxies that give it away, and which parameter matters."""
