"""Start the segmentation node, and beside it RViz or the playback of a recording where they are asked for.

    ros2 launch rt_seg_ros segment.launch.py model:=cgnet camera_topics:=/camera/image_raw rviz:=true

An argument that is left empty changes nothing: the value of the parameter file holds.
"""

import atexit
import hashlib
import os
import re
import tempfile

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

from rt_seg_ros.cache import Cache
from rt_seg_ros.ros.names import camera_names, expanded, topic_token
from rt_seg_ros.ros.rviz import CameraTopics, for_cameras

PACKAGE = "rt_seg_ros"
BOOLEANS = ("true", "false")

# Arguments that are parameters of the node, with their types: see config/segment.yaml.
PARAMETERS = {
    "model": (str, "network (cgnet) or weights (cgnet_camvid11) by name; rt-seg models lists them"),
    "weights": (str, "file of weights (.safetensors) in place of the package's own"),
    "label_space": (str, "classes: camvid11, cityscapes19, or a YAML file"),
    "allow_random_weights": (bool, "true: start even a model that has no weights, for trying things out"),
    "backend": (str, "runtime that computes the network: auto, torch, ..."),
    "device": (str, "auto, cpu, cuda, or cuda:N for GPU N"),
    "precision": (str, "fp32, bf16, fp16, or int8 after rt-seg export"),
    "input_height": (int, "height at which the network works (pixels); 0: as downsampling_ratio says"),
    "input_width": (int, "width at which the network works (pixels); 0: as downsampling_ratio says"),
    "downsampling_ratio": (float, "working size over image size, up to 1; 0: as the network learnt"),
    "camera_topics": (list, "image topics: one, or several as /front/image_raw,/rear/image_raw or a YAML list"),
    "image_transport": (str, "raw, or compressed: sensor_msgs/CompressedImage on TOPIC/compressed"),
    "mask_classes": (list, "classes with a topic ~/mask/CLASS of their own: road,car or a YAML list"),
}


def arguments():
    """Return the declarations of all arguments, the node's parameters among them."""
    share = get_package_share_directory(PACKAGE)
    # Humble adds transports of its own, which stay on this machine, to a profile's: whose UDP would not.
    profile = "fastdds_localhost.xml" if os.environ.get("ROS_LOCALHOST_ONLY") == "1" else "fastdds.xml"
    declared = [
        DeclareLaunchArgument(name, default_value="", description=f"{text} [empty: as in params_file]")
        for name, (_, text) in PARAMETERS.items()
    ]
    declared += [
        DeclareLaunchArgument("camera_topic", default_value="", description="one image topic: short for camera_topics"),
        DeclareLaunchArgument(
            "params_file",
            default_value=os.path.join(share, "config", "segment.yaml"),
            description="parameter file; other arguments go before what it says",
        ),
        DeclareLaunchArgument("name", default_value="segmentation", description="name of the node"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            choices=BOOLEANS,
            description="configure and activate the node; false: a lifecycle manager, or you, will",
        ),
        DeclareLaunchArgument(
            "respawn", default_value="false", choices=BOOLEANS, description="start the node again should it ever end"
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="",
            choices=("", *BOOLEANS),
            description="take the time from /clock [empty: as in params_file, or as SetParameter around this says]",
        ),
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=os.path.join(share, "config", "dds", profile),
            description="Fast DDS profile with room for large images, for the node and the playback; a profile or "
            "transports that are set already (FASTRTPS_DEFAULT_PROFILES_FILE, FASTDDS_BUILTIN_TRANSPORTS) go before it;"
            " none: Fast DDS's own settings",
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
        DeclareLaunchArgument(
            "rviz",
            default_value="false",
            choices=BOOLEANS,
            description="show overlay, image, label and a mask (the first of mask_classes) in RViz, if it is installed",
        ),
        DeclareLaunchArgument(
            "bag",
            default_value="",
            description="recording to play beside the node (ros2 bag play), from when the node is active; "
            "with use_sim_time:=true it gives the time too",
        ),
        DeclareLaunchArgument("bag_rate", default_value="1.0", description="speed of playback, 1.0: as recorded"),
        DeclareLaunchArgument(
            "bag_delay",
            default_value="3.0",
            description="seconds until playback begins, in which it and the node find each other; what is published "
            "before is lost; with bag_loop before each round",
        ),
        DeclareLaunchArgument(
            "bag_loop", default_value="false", choices=BOOLEANS, description="play the recording again and again"
        ),
    ]
    return declared


def convert(name, text):
    """Return an argument's text in the type of its parameter."""
    kind = PARAMETERS[name][0]
    if kind is list:
        try:
            value = yaml.safe_load(text) if text.lstrip().startswith("[") else text.split(",")
        except yaml.YAMLError as error:
            raise RuntimeError(f"{name}:={text}: expected a YAML list, as in [road, car]") from error
        return [str(entry).strip() for entry in value] or [""]  # launch_ros passes no empty list on
    if kind is bool:
        if text.lower() not in BOOLEANS:
            raise RuntimeError(f"{name}:={text}: expected true or false")
        return text.lower() == "true"
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError as error:
        raise RuntimeError(f"{name}:={text}: expected a{'n' if kind is int else ''} {kind.__name__}") from error


def setup(context):
    """Return the actions that the arguments ask for."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    def is_true(name):
        return value(name).lower() == "true"

    params_file = os.path.expanduser(value("params_file"))
    if params_file and not os.path.isfile(params_file):
        raise RuntimeError(f"params_file:={params_file}: there is no such file")

    given = {name: convert(name, value(name)) for name in PARAMETERS if value(name)}
    if value("camera_topic"):
        if "camera_topics" in given:
            raise RuntimeError("camera_topic and camera_topics are both given: name all cameras in camera_topics")
        given["camera_topics"] = [value("camera_topic")]
    given["autostart"] = is_true("autostart")
    if value("use_sim_time"):
        given["use_sim_time"] = is_true("use_sim_time")
    around = context.launch_configurations
    # As launch_ros makes it: PushRosNamespace around this file goes before.
    namespace = make_namespace_absolute(prefix_namespace(around.get("ros_namespace"), value("namespace"))) or "/"
    full_name = f"{namespace.rstrip('/')}/{value('name').strip('/')}"
    from_file = read_parameters(params_file, full_name) if params_file else {}
    known = {**of_set_parameter(around.get("global_params") or (), full_name), **from_file, **given}

    node = LifecycleNode(
        package=PACKAGE,
        executable="segmentation_node",
        name=value("name"),
        namespace=value("namespace"),
        parameters=[params_file, given] if params_file else [given],
        arguments=["--ros-args", "--log-level", value("log_level")],
        respawn=is_true("respawn"),
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
        additional_env=middleware(value("fastdds_profile")),
    )
    actions = [node]
    pushed, own = (around.get("ros_namespace") or "").strip("/"), value("namespace")
    if own and not own.startswith("/") and f"/{pushed}".endswith(f"/{own.strip('/')}"):
        words = (
            f"namespace:={own} within the namespace /{pushed}: the node is {full_name}. If '{own}' is an argument of "
            "the launch file around this one, pass namespace:='' here"
        )
        actions.insert(0, LogInfo(msg=words))
    if params_file and not from_file:
        words = f"params_file:={params_file} has no parameters for {full_name}: its key must be the node's name, or /**"
        actions.insert(0, LogInfo(msg=words))
    if value("bag"):
        actions.append(playback(value, is_true, full_name, known))
    if is_true("rviz"):
        actions.append(rviz(full_name, known))
    return actions


def of_set_parameter(entries, full_name):
    """Return what SetParameter and SetParametersFromFile around this file say of a node."""
    known = {}
    for entry in entries:  # (name, value), or the path of a parameter file
        known.update([entry] if isinstance(entry, tuple) else read_parameters(str(entry), full_name).items())
    return known


def read_parameters(path, full_name):
    """Return what a parameter file says of a node, as rcl reads it: the later entry that means it wins."""
    found = {}
    wildcards = {"**": "(/[^/]+)*", "*": "/[^/]+"}

    def look(pattern, entry):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if key != "ros__parameters":
                parts = [part for part in str(key).split("/") if part]
                look(pattern + "".join(wildcards.get(part, f"/{re.escape(part)}") for part in parts), value)
            elif re.fullmatch(pattern, full_name):
                if not isinstance(value or {}, dict):
                    raise RuntimeError(f"params_file:={path}: ros__parameters is {value}, not names with values")
                found.update(value or {})

    with open(path, encoding="utf-8") as file:
        try:
            look("", yaml.safe_load(file))
        except yaml.YAMLError as error:
            raise RuntimeError(f"params_file:={path}: {error}") from error
    return found


def middleware(profile):
    """Return the environment by which Fast DDS reads the profile, under its older and its newer name."""
    names = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    # Whoever chose Fast DDS's transports has the others speak by them, too: the profile would speak by its own.
    if profile in ("", "none") or any(os.environ.get(name) for name in (*names, "FASTDDS_BUILTIN_TRANSPORTS")):
        return {}
    path = os.path.expanduser(profile)
    if not os.path.isfile(path):
        raise RuntimeError(f"fastdds_profile:={path}: there is no such file (none: Fast DDS's own settings)")
    return dict.fromkeys(names, path)


def playback(value, is_true, full_name, known):
    """Return what plays the recording from when the node is first active."""
    bag = os.path.expanduser(value("bag"))
    if not os.path.exists(bag):
        raise RuntimeError(f"bag:={bag}: there is no such recording")
    command = [os.path.join(get_package_prefix(PACKAGE), "lib", PACKAGE, "when_active"), full_name]
    command += ["ros2", "bag", "play", bag, "--rate", value("bag_rate")]
    if value("bag_delay").strip("0.") or not value("bag_delay"):  # ros2 bag refuses a delay of 0
        command += ["--delay", value("bag_delay")]
    if is_true("bag_loop"):
        command.append("--loop")
    if known.get("use_sim_time"):
        command.append("--clock")
    return ExecuteProcess(cmd=command, output="screen", additional_env=middleware(value("fastdds_profile")))


def rviz(prefix, known):
    """Return what starts RViz, or says that it is not there.

    :param prefix: the node's full name
    :param known: its parameters, as far as arguments and file say
    """
    try:
        get_package_prefix("rviz2")
    except PackageNotFoundError:
        return LogInfo(msg="rviz:=true, but rviz2 is not installed (apt install ros-$ROS_DISTRO-rviz2)")
    topics = [expanded(topic, prefix) for topic in texts(known, "camera_topics")]
    # RViz goes by the name in its layout when it chooses a transport, whatever that is remapped to.
    ending = "/compressed" if known.get("image_transport") == "compressed" else ""
    mask = topic_token((texts(known, "mask_classes") or ["road"])[0])
    folder = os.path.join(get_package_share_directory(PACKAGE), "rviz")
    layout = os.path.join(folder, "segment.rviz")
    remappings = []
    if len(topics) > 1:
        names = camera_names(topics, texts(known, "camera_names"))
        cameras = [
            CameraTopics(name, topic + ending, f"{prefix}/{name}", mask)
            for name, topic in zip(names, topics, strict=True)
        ]
        layout = kept_layout(for_cameras(read(os.path.join(folder, "segment_cameras.rviz")), cameras))
    else:
        remappings += [(f"/segmentation/{output}", f"{prefix}/{output}") for output in ("label", "overlay")]
        remappings.append(("/segmentation/mask/road", f"{prefix}/mask/{mask}"))
        if ending:
            (topic,) = topics or ["/camera/image_raw"]
            layout = kept_layout(read(layout).replace("Value: /camera/image_raw", f"Value: {topic}{ending}"))
        else:
            remappings += [("/camera/image_raw", topic) for topic in topics]
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", layout],
        remappings=remappings,
        parameters=[{"use_sim_time": known["use_sim_time"]}] if "use_sim_time" in known else [],
        output="log",
    )


def texts(known, name):
    """Return a parameter that is a list of texts; a file may have one text, or several with commas between."""
    stored = known.get(name) or []
    entries = stored.split(",") if isinstance(stored, str) else stored
    return [entry for entry in (str(entry).strip() for entry in entries) if entry]


def read(path):
    """Return the text of a file."""
    with open(path, encoding="utf-8") as file:
        return file.read()


def kept_layout(text):
    """Return the path of a layout of RViz: in the cache, the same file at every launch."""
    content = text.encode()
    cache, key, name = Cache("rviz", keep=16), {"sha256": hashlib.sha256(content).hexdigest()}, "cameras.rviz"
    if cache.load("segment", key) or cache.save("segment", key, {name: content}):
        return os.path.join(cache.path("segment", key), name)
    with tempfile.NamedTemporaryFile(prefix="segment_", suffix=".rviz", delete=False) as file:
        file.write(content)
    atexit.register(os.unlink, file.name)
    return file.name


def generate_launch_description():
    """Return the launch description."""
    return LaunchDescription([*arguments(), OpaqueFunction(function=setup)])
