"""The ROS 2 side: the node and the player of recorded drives. Only modules of this folder import rclpy."""
