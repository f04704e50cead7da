"""The ROS 2 side: the node and the player of recorded drives. Nothing below it knows rclpy."""
