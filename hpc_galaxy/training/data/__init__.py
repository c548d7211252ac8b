"""How examples reach the network: order, reading ahead, what the network sees of them, augmentation, staging."""
