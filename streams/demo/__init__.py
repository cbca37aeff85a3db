"""`headrace demo`: the main job from start to finish, accounted for from what the topics and the store hold."""
